"""What every test file of the project may use."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run the tests marked nightly too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Slow files first, so that at the end two processes share many quick ones.
    slow = {item.path for item in items if {"process", "server"} & {*item.keywords}}
    items.sort(key=lambda item: item.path not in slow)
    if config.getoption("--nightly"):
        return
    for item in items:
        if "nightly" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes long: notebento check --nightly"))
