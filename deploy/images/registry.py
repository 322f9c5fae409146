"""The registry's server: MLflow on the stores that the environment names.

    serve     (default) answer
    bucket    make the bucket of REGISTRY_ARTIFACTS where it is missing; once, before the first start
    upgrade   bring the database to this MLflow's schema; once after a newer image, with the server stopped

REGISTRY_STORE          SQLAlchemy URL of the database; {password} in it becomes the content of REGISTRY_PASSWORD_FILE
REGISTRY_ARTIFACTS      folder or s3://bucket/path of the files; MLFLOW_S3_ENDPOINT_URL and boto3's variables say where
REGISTRY_ADDRESS        host:port to answer on; 0.0.0.0:5000
REGISTRY_ALLOWED_HOSTS  Host headers that are answered, separated by commas; others get 403

No requests are logged: their paths hold model names, and those of personal models hold patient ids.
"""

import os
import sys
import urllib.parse
from pathlib import Path

FOLDER = "/var/lib/registry"
MLFLOW = (sys.executable, "-m", "mlflow")
SERVE = ("server", "--workers", "1", "--uvicorn-opts", "--no-access-log")


def main() -> None:
    """Do what the first word says; exit 1 with a sentence for a word or a setting that cannot be used."""
    command = sys.argv[1] if len(sys.argv) > 1 else "serve"
    if command not in COMMANDS:
        sys.exit(f"error: {command!r} is none of {', '.join(COMMANDS)}")
    COMMANDS[command]()


def serve() -> None:
    """Become the server."""
    os.environ["MLFLOW_BACKEND_STORE_URI"] = store()  # not on the command line, which other processes can read
    os.environ["MLFLOW_ARTIFACTS_DESTINATION"] = artifacts()
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # half of its memory, for what is not used
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    hosts = os.environ.get("REGISTRY_ALLOWED_HOSTS", "localhost:*,127.0.0.1:*")
    host, _, port = os.environ.get("REGISTRY_ADDRESS", "0.0.0.0:5000").rpartition(":")
    os.execv(MLFLOW[0], (*MLFLOW, *SERVE, "--host", host, "--port", port, "--allowed-hosts", hosts))


def bucket() -> None:
    """Make the bucket of the artifacts."""
    place = urllib.parse.urlparse(artifacts())
    if place.scheme != "s3":
        sys.exit(f"error: REGISTRY_ARTIFACTS is {artifacts()!r}, not s3://bucket; profile scale needs deploy/scale.env")
    import boto3

    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
    client = boto3.client("s3", endpoint_url=endpoint, region_name=os.environ.get("AWS_REGION", "us-east-1"))
    if place.netloc not in [known["Name"] for known in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=place.netloc)
    print(f"bucket {place.netloc} is there")


def upgrade() -> None:
    """Become what changes the database's schema."""
    os.execv(MLFLOW[0], (*MLFLOW, "db", "upgrade", store()))


def artifacts() -> str:
    """Where the files are."""
    return os.environ.get("REGISTRY_ARTIFACTS", f"{FOLDER}/artifacts")


def store() -> str:
    """The database's URL, with its password."""
    url, file = os.environ.get("REGISTRY_STORE", f"sqlite:///{FOLDER}/mlflow.db"), "REGISTRY_PASSWORD_FILE"
    if "{password}" not in url:
        return url
    if file not in os.environ:
        sys.exit(f"error: REGISTRY_STORE has a {{password}}; name the file that holds it in {file}")
    password = Path(os.environ[file]).read_text().strip()
    return url.replace("{password}", urllib.parse.quote(password, safe=""))


COMMANDS = {"serve": serve, "bucket": bucket, "upgrade": upgrade}

if __name__ == "__main__":
    main()
