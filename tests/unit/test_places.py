"""Who may keep a connection: pure, with a clock that is moved by hand."""

import pytest

from coat_ryu.places import Places, Visit, neighbourhood


class Hall:
    """Places for eight in all, four of one address; greetings for four, two of one address."""

    def __init__(self) -> None:
        self.now = 0.0
        self.gone: list[str] = []
        self.places = Places(8, 4, 4, 2, clock=lambda: self.now)

    def come(self, name: str, address: str) -> Visit:
        self.now += 1
        return self.places.greet(address, lambda: self.gone.append(name))

    def sit(self, name: str, address: str, served: bool = False) -> bool:
        visit = self.come(name, address)
        seated = self.places.seat(visit)
        if seated and served:
            self.places.serve(visit)
        return seated


def test_an_address_that_has_its_share_loses_its_own_idlest() -> None:
    hall = Hall()
    assert hall.sit("other", "192.0.2.1")
    assert all(hall.sit(f"m{number}", "192.0.2.9") for number in range(6))
    assert hall.gone == ["m0", "m1"]


def test_an_address_whose_share_is_all_served_gets_no_more() -> None:
    hall = Hall()
    assert all(hall.sit(f"m{number}", "192.0.2.9", served=True) for number in range(4))
    assert not hall.sit("m4", "192.0.2.9")
    assert hall.sit("other", "192.0.2.1")
    assert hall.gone == []


def test_a_full_house_sends_away_the_idlest_of_the_most_crowding() -> None:
    hall = Hall()
    assert hall.sit("lone", "192.0.2.1")
    assert all(hall.sit(f"m{number}", "192.0.2.9") for number in range(4))
    assert all(hall.sit(f"n{number}", "192.0.2.8", served=True) for number in range(3))
    assert hall.sit("new", "192.0.2.2")
    assert hall.gone == ["m0"]


def test_a_house_full_of_served_ones_is_full() -> None:
    hall = Hall()
    assert all(hall.sit(f"m{number}", f"192.0.2.{number % 2}", served=True) for number in range(8))
    assert not hall.sit("new", "192.0.2.9")
    assert hall.gone == []


def test_handshakes_are_bounded_and_take_no_place() -> None:
    hall = Hall()
    for number in range(4):
        hall.come(f"m{number}", "192.0.2.9")
    assert hall.gone == ["m0", "m1"]
    for number in range(3):
        hall.come(f"n{number}", f"192.0.2.{number}")
    assert hall.gone == ["m0", "m1", "m2"]
    assert all(hall.sit(f"s{number}", f"198.51.100.{number}") for number in range(8))


def test_a_visit_that_was_ended_while_it_greeted_gets_no_place() -> None:
    hall = Hall()
    first = hall.come("first", "192.0.2.9")
    hall.come("second", "192.0.2.9")
    hall.come("third", "192.0.2.9")
    assert hall.gone == ["first"] and not hall.places.seat(first)


def test_who_leaves_makes_room() -> None:
    hall = Hall()
    for _ in range(100):
        visit = hall.come("x", "192.0.2.9")
        assert hall.places.seat(visit)
        hall.places.serve(visit)
        hall.places.leave(visit)
    assert hall.gone == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_an_ipv6_host_is_its_whole_network(one: str, other: str, same: bool) -> None:
    assert (neighbourhood(one) == neighbourhood(other)) is same
