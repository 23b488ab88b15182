"""Make the steps' account in MLflow, or give it the Secret's password, as the administrator. Waits for the server.

MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD are the server's and the administrator's; ACCOUNT_USERNAME and
ACCOUNT_PASSWORD the account's.
"""

import os
import sys
import time

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

SECONDS_TO_WAIT = float(os.environ.get("SECONDS_TO_WAIT", "600"))


def main() -> None:
    client = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    username, password = os.environ["ACCOUNT_USERNAME"], os.environ["ACCOUNT_PASSWORD"]
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while True:
        try:
            done = given(client, username, password)
        except MlflowException as error:
            refused = error.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_PARAMETER_VALUE")
            refused = refused or "401" in str(error)
            if refused or time.monotonic() > deadline:
                sys.exit(f"error: the account {username}: {' '.join(str(error).split())[:300]}")
            time.sleep(5)
        else:
            print(f"the account {username}: {done}")
            return


def given(client, username: str, password: str) -> str:
    """Create the account or set its password; return which of both it was."""
    try:
        client.get_user(username)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_user(username, password)
        return "made"
    client.update_user_password(username, password)
    return "has the password of the Secret"


if __name__ == "__main__":
    main()
