"""Ranks that are unlike the others, and ranks that are all alike."""

import pytest

from gradscope.records import RankOutlier
from gradscope.rules.ranks import rank_outlier
from tests.rules.sick_runs import of_ranks


@pytest.mark.parametrize(("standing_out", "found"), [(1, True), (4, True), (5, False), (8, False)])
def test_what_most_ranks_have_is_nothing_to_stand_out_by(standing_out: int, found: bool) -> None:
    outliers = [RankOutlier(rank, f"act{rank % 3}", "dead_fraction", 0.6, 0.3, 9, 390) for rank in range(standing_out)]
    assert bool(list(rank_outlier(of_ranks(*outliers)))) == found


def test_the_one_that_is_on_the_other_side_still_stands_out() -> None:
    outliers = [RankOutlier(rank, "act1", "act_mean", 0.0, 0.9, 9, 390) for rank in range(7)]
    (finding,) = rank_outlier(of_ranks(*outliers, RankOutlier(7, "act1", "act_mean", 2.9, 0.0, 9, 390)))
    assert finding.evidence["rank"] == 7
