"""Whose turn it is, and who is let in."""

from __future__ import annotations

import random

import pytest

from coordinator.admission import Admission
from coordinator.backends.fair_queue import BATCH_SHARE, FairQueue, Priority, Turn
from serving.errors import MaifsError, Reason


def drain(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


class TestTurns:
    def test_a_newcomer_does_not_wait_for_all_of_a_greedy_client(self) -> None:
        queue: FairQueue[str] = FairQueue()
        for i in range(6):
            queue.push(Turn("greedy"), f"g{i}")
        queue.push(Turn("modest"), "m0")
        assert drain(queue) == ["g0", "m0", "g1", "g2", "g3", "g4", "g5"]

    def test_clients_take_turns_and_keep_their_own_order(self) -> None:
        queue: FairQueue[str] = FairQueue()
        for i in range(3):
            for client in "abc":
                queue.push(Turn(client), f"{client}{i}")
        assert drain(queue) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]

    def test_a_retry_goes_before_the_interactive_and_those_before_the_batch(self) -> None:
        queue: FairQueue[str] = FairQueue()
        queue.push(Turn("b", Priority.BATCH), "batch")
        queue.push(Turn("i"), "interactive")
        queue.push(Turn("b", Priority.BATCH).again(), "retry")
        assert drain(queue) == ["retry", "interactive", "batch"]

    def test_a_batch_is_not_starved(self) -> None:
        queue: FairQueue[str] = FairQueue()
        for i in range(3 * BATCH_SHARE):
            queue.push(Turn("i"), "i")
            queue.push(Turn("b", Priority.BATCH), f"b{i}")
        first = [queue.pop() for _ in range(2 * BATCH_SHARE)]
        assert [item for item in first if item != "i"] == ["b0", "b1"]

    def test_who_leaves_is_forgotten(self) -> None:
        queue: FairQueue[str] = FairQueue()
        queue.push(Turn("a"), "one")
        queue.push(Turn("a"), "two")
        assert queue.remove(Turn("a"), "one")
        assert not queue.remove(Turn("a"), "one")
        assert not queue.remove(Turn("nobody"), "two")
        assert drain(queue) == ["two"]
        with pytest.raises(IndexError):
            queue.pop()

    def test_whatever_happens_everything_comes_out_once(self) -> None:
        rng = random.Random(7)
        queue: FairQueue[int] = FairQueue()
        waiting: dict[int, Turn] = {}
        out: list[int] = []
        for number in range(3000):
            if rng.random() < 0.5:
                waiting[number] = Turn(rng.choice("abcd"), rng.choice(list(Priority)))
                queue.push(waiting[number], number)
            elif waiting and rng.random() < 0.3:
                gone = rng.choice(list(waiting))
                assert queue.remove(waiting.pop(gone), gone)
            elif waiting:
                out.append(queue.pop())
                del waiting[out[-1]]
            assert len(queue) == len(waiting)
        assert len(set(out)) == len(out)
        assert sorted(queue.pop() for _ in range(len(queue))) == sorted(waiting)

    def test_ahead_is_the_number_that_are_taken_before_one_that_comes_now(self) -> None:
        random_ = random.Random(4)
        for _ in range(300):
            queue: FairQueue[int] = FairQueue()
            turns = [Turn(client, priority) for client in "abcd" for priority in (Priority.INTERACTIVE, Priority.BATCH)]
            for i in range(random_.randrange(40)):
                queue.push(random_.choice(turns), i)
            turn = random_.choice([*turns, Turn("new")])
            expected = queue.ahead(turn)
            queue.push(turn, -1)
            taken = 0
            while queue.pop() != -1:
                taken += 1
            # where the count of turns stands decides about one item, or one round of the least urgent
            assert abs(taken - expected) <= (1 if turn.priority is Priority.INTERACTIVE else BATCH_SHARE)


class TestAdmission:
    def test_one_client_gets_half_and_a_newcomer_finds_room(self) -> None:
        admission = Admission(1000, 100)
        greedy, modest = admission.share("greedy"), admission.share("modest")
        for _ in range(5):
            greedy.reserve(100)
        with pytest.raises(MaifsError) as caught:
            greedy.reserve(100)
        assert caught.value.reason is Reason.QUEUE_FULL
        assert caught.value.retry_after_s > 0
        modest.reserve(400)

    def test_a_client_without_any_may_use_all_that_is_free(self) -> None:
        admission = Admission(1000, 100)
        admission.share("a").reserve(1000)
        with pytest.raises(MaifsError):
            admission.share("b").reserve(1)

    def test_what_is_given_back_can_be_had_again(self) -> None:
        admission = Admission(1000, 2)
        share = admission.share("a")
        share.reserve(300)
        admission.share("b").reserve(1)
        with pytest.raises(MaifsError, match="limit"):
            admission.share("c").reserve(1)
        share.release(300)
        admission.share("c").reserve(999)
        assert (admission.held_bytes, admission.held_items) == (1000, 2)
