"""The container files say what the service needs: lanes, settings, rights, versions."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from app.jobs import Lane
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = YAML(typ="safe").load(COMPOSE_TEXT)
DOCKERFILE = (ROOT / "Dockerfile").read_text()

SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = {name: service for name, service in SERVICES.items() if name.startswith("worker-")}
GPU = {name: worker for name, worker in WORKERS.items() if worker.get("profiles") == ["gpu"]}
OWN = {name: service for name, service in SERVICES.items() if "build" in service}
SERVERS = {name: service for name, service in SERVICES.items() if "build" not in service}

SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_lane_has_exactly_one_worker(profile: str) -> None:
    lanes = [
        service["command"][-1]
        for service in WORKERS.values()
        if profile in service.get("profiles", [profile])
    ]

    assert sorted(lanes) == sorted(Lane)


def test_nobody_starts_the_service_without_choosing_a_profile() -> None:
    assert "${COMPOSE_PROFILES:?" in COMPOSE_TEXT
    assert "\nCOMPOSE_PROFILES=cpu\n" in (ROOT / ".env.example").read_text()


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_started_and_watched_for_the_same_lane(name: str) -> None:
    lane = name.removeprefix("worker-").removesuffix("-gpu")

    assert WORKERS[name]["command"] == ["worker", "--lanes", lane]
    assert WORKERS[name]["healthcheck"]["test"] == ["CMD", "nnunet-service", "health", "--lanes", lane]


def test_workers_share_the_store_but_no_workspace() -> None:
    mounts = [dict(_mount(volume) for volume in worker["volumes"]) for worker in WORKERS.values()]

    assert {mount["/data/store"] for mount in mounts} == {"${STORE:-store}"}
    assert len({mount["/data/workspace"] for mount in mounts}) == len(Lane)


def test_the_gpu_profile_reserves_a_device_for_each_of_its_workers() -> None:
    assert set(GPU) == {"worker-train-gpu", "worker-predict-gpu"}
    for worker in GPU.values():
        (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert worker["build"]["args"] == {"TORCH_INDEX": ""}  # A torch that knows CUDA.
    assert not any("deploy" in worker for name, worker in WORKERS.items() if name not in GPU)


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_time_to_give_its_job_back(name: str) -> None:
    worker = WORKERS[name]

    grace_seconds = int(worker["environment"]["SEG_STOP_GRACE_SECONDS"])
    assert int(worker["stop_grace_period"].removesuffix("s")) >= grace_seconds + 15


@pytest.mark.parametrize("name", OWN)
def test_our_services_know_database_broker_and_store(name: str) -> None:
    environment = OWN[name]["environment"]

    assert "postgresql+psycopg://" in environment["SEG_DATABASE_URL"]
    assert "redis://" in environment["SEG_BROKER_URL"]
    assert environment["SEG_STORE_DIR"] == "/data/store"


@pytest.mark.parametrize("name", OWN)
def test_our_services_are_given_settings_that_exist(name: str) -> None:
    assert set(OWN[name]["environment"]) <= SETTINGS


def test_every_setting_can_be_chosen() -> None:
    given = {setting for service in OWN.values() for setting in service["environment"]}

    assert given | set(re.findall(r"\bSEG_\w+(?==)", DOCKERFILE)) == SETTINGS


def test_only_the_api_knows_the_key_of_the_clients() -> None:
    assert [name for name, service in OWN.items() if "SEG_API_KEY" in service["environment"]] == ["api"]


@pytest.mark.parametrize("variable", ["SEG_API_KEY", "POSTGRES_PASSWORD"])
def test_what_is_secret_has_no_default(variable: str) -> None:
    assert f"${{{variable}:?" in COMPOSE_TEXT
    assert f"\n{variable}=\n" in (ROOT / ".env.example").read_text()


def test_everything_waits_for_the_migration() -> None:
    waiting = {
        name
        for name, service in SERVICES.items()
        if service.get("depends_on", {}).get("migrate") == {"condition": "service_completed_successfully"}
    }

    assert waiting == {"api", *WORKERS}


def test_only_the_api_can_be_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]


def test_redis_keeps_every_message() -> None:
    command = " ".join(SERVICES["redis"]["command"])

    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
def test_every_lasting_service_is_watched_and_started_again(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_no_service_runs_as_root() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert {name: service["user"] for name, service in SERVERS.items()} == {
        "postgres": "postgres",
        "redis": "redis",
    }
    assert not any("user" in service for service in OWN.values())


@pytest.mark.parametrize("name", SERVERS)
def test_foreign_images_are_pinned(name: str) -> None:
    assert re.search(r":\d+\.\d+[\w.-]*$", SERVERS[name]["image"])


def test_our_images_carry_the_release() -> None:
    images = {service["image"] for service in OWN.values()}

    assert {image.partition(":")[2] for image in images} == {PROJECT["project"]["version"]}
    assert f'image.version="{PROJECT["project"]["version"]}"' in DOCKERFILE


def test_the_base_image_is_pinned_by_digest() -> None:
    foreign = [line for line in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if ":" in line]

    assert len(foreign) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", foreign[0])


def test_only_the_worker_image_has_the_engine() -> None:
    stages = _stages()

    assert "'.[app]'" in stages["app-packages"]
    assert [name for name, text in stages.items() if re.search(r"\[.*worker.*\]'", text)] == [
        "worker-packages"
    ]
    assert _copied_from(stages["app"]) == ["app-packages"]
    assert _copied_from(stages["worker"]) == ["worker-packages"]


def test_the_app_extra_brings_all_that_celery_needs_to_speak_to_redis() -> None:
    app = PROJECT["project"]["optional-dependencies"]["app"]

    assert [name for name in app if name.startswith("celery[redis]")]


def test_compose_builds_targets_that_exist() -> None:
    assert {service["build"]["target"] for service in OWN.values()} == {"app", "worker"} <= set(_stages())


def test_every_install_keeps_to_the_constraints() -> None:
    installs = re.findall(r"pip (?:install|wheel) .*", DOCKERFILE)

    assert len(installs) == 6
    assert [line for line in installs if "--constraint constraints.txt" not in line] == []


def test_the_images_hold_every_package_of_the_project() -> None:
    packages = [
        name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    ]
    let_in = (ROOT / ".dockerignore").read_text().splitlines()

    assert [name for name in packages if f"\nCOPY {name} {name}\n" not in DOCKERFILE] == []
    assert [name for name in packages if f"!{name}" not in let_in] == []


def _stages() -> dict[str, str]:
    """Return the text of each stage of the Dockerfile."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _copied_from(stage: str) -> list[str]:
    return re.findall(r"COPY --from=(\S+)", stage)


def _mount(volume: str) -> tuple[str, str]:
    """Split a volume into where it is seen and what it is."""
    source, _, target = volume.rpartition(":")
    return target, source
