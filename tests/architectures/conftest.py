"""There are no tests in here, and some files need libraries that only one environment has."""

collect_ignore_glob = ["*.py"]
