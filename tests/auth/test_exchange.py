"""One request to an application; what its answers mean is tested with `Hook`."""

from __future__ import annotations

from trio_beat.auth.exchange import Answer, Place


def test_no_repr_has_what_may_be_secret() -> None:
    place = Place("application", 80, "/hook?key=s3cret", None)
    answer = Answer(200, (("Set-Cookie", "key=s3cret"),), b'{"session": "s3cret"}', more=False)
    for shown in (repr(place), repr(answer)):
        assert "s3cret" not in shown
    assert "application" in repr(place)
    assert "200" in repr(answer)
