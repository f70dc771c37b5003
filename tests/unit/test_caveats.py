"""What is told of a move that lost something on its way."""

from coat_ryu import caveats


def test_what_could_not_be_set_again_is_told_after_the_restore() -> None:
    assert list(caveats.after_restore({"options_set": 3, "options_lost": []}, {"sockets_left_out": 0})) == []
    assert list(caveats.after_restore({}, {})) == []  # a hook that is older, or a restore that was found
    lost, left_out = caveats.after_restore({"options_lost": ["option 6/13"] * 9}, {"sockets_left_out": 7})
    assert (lost.cause, left_out.cause) == ("options_lost", "sockets_left_out")
    assert lost.message.count("option 6/13") == 3 and left_out.message.startswith("7 sockets")
