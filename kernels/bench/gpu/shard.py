"""A pytest plugin: `--shard 1/4` runs every fourth test, from the second on. On a GPU the tests mostly wait for the compiler."""


def pytest_addoption(parser) -> None:
    parser.addoption("--shard", default="0/1", help="which part of how many: 0/4 to 3/4")


def pytest_collection_modifyitems(config, items) -> None:
    index, count = map(int, config.getoption("--shard").split("/"))
    config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % count != index])
    items[:] = items[index::count]
