"""Write the settings file of MLflow's basic-auth app: the users are in the database of MLFLOW_BACKEND_STORE_URI."""

import configparser
import os
import sys
from pathlib import Path

SETTINGS = {
    # What users may do with each other's experiments and models; what they made themselves they also manage.
    "default_permission": "EDIT",
    "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    # Checking a password takes a tenth of a second of CPU time, and a training sends hundreds of requests. A changed
    # password or a deleted user is noticed after this many seconds at the latest.
    "auth_cache_ttl_seconds": "60",
}


def main(path: Path) -> None:
    settings = configparser.ConfigParser()
    # A % in a password: ConfigParser would take it for a reference to another key.
    address = os.environ["MLFLOW_BACKEND_STORE_URI"].replace("%", "%%")
    settings["mlflow"] = SETTINGS | {"database_uri": address}
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as file:
        settings.write(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
