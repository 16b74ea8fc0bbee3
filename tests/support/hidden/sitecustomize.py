"""Found by each Python process that is started with this directory in its path."""

import tests.support.hidden  # noqa: F401
