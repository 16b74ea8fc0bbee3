"""Found by each Python process that is started with this directory in its path."""

import tests.hidden  # noqa: F401
