import numpy as np
import pytest

from bench.data.signal import LEADS, constant_leads, fill_gaps, lead_order, to_int16
from bench.errors import UserError


@pytest.fixture
def signal() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((12, 50))


def test_lead_order_finds_every_lead_whatever_order_case_and_spaces_a_file_has() -> None:
    names = [f" {name.upper()} " for name in np.random.default_rng(0).permutation(LEADS)]
    assert [names[i].strip() for i in lead_order(names)] == [lead.upper() for lead in LEADS]


@pytest.mark.parametrize("names", [
    LEADS[:11], (*LEADS, "V7"), (*LEADS[:11], "V5"), (*LEADS[:11], "X"), (), (*LEADS[:11], None), range(12)])
def test_any_other_leads_than_the_twelve_are_refused_with_the_list_of_them(names) -> None:
    with pytest.raises(UserError, match="the 12 leads I, II, III, aVR"):
        lead_order(names)


def test_gaps_are_filled_on_the_line_between_their_ends(signal) -> None:
    line = np.tile(np.linspace(-1, 1, 50), (12, 1)) * np.arange(1, 13)[:, None]
    holes = line.copy()
    holes[3, 10:30] = holes[7, 49 - 20] = np.nan
    filled, leads = fill_gaps(holes)
    assert leads == 2
    np.testing.assert_allclose(filled, line, atol=1e-12)


def test_gaps_at_the_ends_take_the_nearest_value_and_nothing_else_changes(signal) -> None:
    holes = signal.copy()
    holes[0, :5] = holes[0, -5:] = np.nan
    before = holes.copy()
    filled, leads = fill_gaps(holes)
    assert leads == 1 and set(filled[0, :5]) == {signal[0, 5]} and set(filled[0, -5:]) == {signal[0, -6]}
    np.testing.assert_array_equal(filled[~np.isnan(holes)], signal[~np.isnan(holes)])
    np.testing.assert_array_equal(holes, before)


def test_a_signal_without_gaps_is_given_back_as_it_is(signal) -> None:
    filled, leads = fill_gaps(signal)
    assert leads == 0 and filled is signal


def test_a_lead_without_any_value_is_refused_by_name(signal) -> None:
    signal[8] = np.nan
    with pytest.raises(UserError, match="lead V3 holds no value"):
        fill_gaps(signal)


def test_constant_leads_are_those_that_never_change(signal) -> None:
    assert constant_leads(signal) == []
    signal[1], signal[11] = 0.25, 0.0
    signal[4, :-1] = 0.0
    assert constant_leads(signal) == ["II", "V6"]


def test_int16_is_the_nearest_step(signal) -> None:
    assert to_int16(signal, 0.001).dtype == np.int16
    assert np.abs(to_int16(signal, 0.001) * 0.001 - signal).max() <= 0.0005 + 1e-12


def test_int16_gives_back_every_number_that_it_can_hold() -> None:
    every = np.arange(-32767, 32768)
    np.testing.assert_array_equal(to_int16(every / 1000, 0.001), every)
    np.testing.assert_array_equal(to_int16(every * 0.001, 0.001), every)


@pytest.mark.parametrize("value", [32.768, -32.768, 1e9])
def test_a_value_beyond_int16_is_refused_and_never_wraps(signal, value) -> None:
    signal[2, 7] = value
    with pytest.raises(UserError, match="more than int16 holds"):
        to_int16(signal, 0.001)
