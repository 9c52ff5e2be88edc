"""What sites know of the coming hours."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gcos.signals import HOUR_S, StepSeries
from testbed.sim.forecast import Forecaster
from testbed.sim.instance import ForecastNoise, Instance
from testbed.sim.samples import START_S, Sample, instance_of, site_id

HERE = site_id(1)
NOISE = ForecastNoise(sigma=0.2, rho=0.9)


def world(noise: ForecastNoise = NOISE, *, seed: int = 0) -> Instance:
    return instance_of(Sample(seed=seed, forecast=noise))


def carbon_errors(instance: Instance, hour: int) -> NDArray[np.float64]:
    """Return forecast over truth less one, from the begin of the world on."""
    signals = Forecaster(instance).signals(HERE, START_S + hour * HOUR_S)
    assert signals.carbon is not None
    return np.asarray(signals.carbon.series.values / instance.carbon[HERE].values - 1.0)


@pytest.mark.parametrize("hour", [0, 5, 30])
def test_the_past_and_the_present_are_the_truth(hour: int) -> None:
    errors = carbon_errors(world(), hour)
    assert (errors[: hour + 1] == 0).all()
    assert (errors[hour + 1 :] != 0).all()


def test_within_the_hour_the_forecast_stays() -> None:
    instance = world()
    forecaster = Forecaster(instance)
    first, last = (forecaster.signals(HERE, START_S + s).price.series for s in (0.0, 3599.0))
    assert (first.values == last.values).all()


def test_errors_grow_towards_sigma() -> None:
    """Over many issues: e_1 has the deviation of one step, e_48 nearly that of all."""
    many = np.array([carbon_errors(world(seed=seed), 0)[1:49] for seed in range(400)])
    spread = many.std(axis=0)
    assert spread[0] == pytest.approx(NOISE.sigma * np.sqrt(1 - NOISE.rho**2), rel=0.15)
    assert spread[-1] == pytest.approx(NOISE.sigma, rel=0.15)
    neighbours = np.corrcoef(many[:, -2], many[:, -1])[0, 1]
    assert neighbours == pytest.approx(NOISE.rho, abs=0.05)
    assert abs(many.mean()) < 0.05


def test_the_noise_is_the_seeds_and_nobody_elses() -> None:
    assert (carbon_errors(world(), 7) == carbon_errors(world(), 7)).all()
    assert (carbon_errors(world(seed=1), 7)[8:] != carbon_errors(world(), 7)[8:]).all()
    # Whoever asked before, and how often, does not matter.
    instance = world()
    forecaster = Forecaster(instance)
    for hour in (3, 9, 7):
        late = forecaster.signals(HERE, START_S + hour * HOUR_S).carbon
    assert late is not None
    again = late.series.values / instance.carbon[HERE].values - 1.0
    assert (again == carbon_errors(instance, 7)).all()


def test_each_signal_site_and_hour_has_noise_of_its_own() -> None:
    flat = StepSeries(START_S, HOUR_S, np.ones(100))
    instance = world()
    instance = replace(
        instance,
        price=dict.fromkeys(instance.price, flat),
        carbon=dict.fromkeys(instance.carbon, flat),
    )
    forecaster = Forecaster(instance)
    here = forecaster.signals(HERE, START_S)
    there = forecaster.signals(site_id(0), START_S)
    next_hour = forecaster.signals(HERE, START_S + HOUR_S)
    assert here.carbon is not None
    drawn = {signals.price.series.values[50] for signals in (here, there, next_hour)}
    assert len(drawn | {here.carbon.series.values[50]}) == 4


def test_without_noise_the_forecast_is_the_truth() -> None:
    instance = world(ForecastNoise(sigma=0.0))
    assert Forecaster(instance).signals(HERE, START_S).price.series is instance.price[HERE]


def test_at_the_end_of_the_signals_nothing_is_left_to_forecast() -> None:
    instance = world()
    end = len(instance.price[HERE].values) - 1
    assert (carbon_errors(instance, end) == 0).all()
