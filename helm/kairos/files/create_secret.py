"""Make the suite's secret once. Run in the cluster by a job; standard library only.

An existing secret is left exactly as it is, so that upgrades and re-renders change no password.
"""

import base64
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVICES = ("bot-worker", "llm-router", "budget-analytics", "auth-audit", "observability")
SCHEMAS = ("bots", "router", "budget", "auth", "ops")


def values() -> dict[str, str]:
    """Every key of the secret. Passwords are hexadecimal: they stand in URLs unquoted."""
    made = {f"{name}-password": secrets.token_hex(24) for name in ("rabbitmq", "postgres", "owner")}
    made |= {f"{schema}-db-password": secrets.token_hex(24) for schema in SCHEMAS}
    shared = {service: secrets.token_hex(32) for service in SERVICES}
    made |= {f"{service}-service-secret": value for service, value in shared.items()}
    made["service-secrets"] = json.dumps(shared)
    made |= {name: base64.b64encode(secrets.token_bytes(32)).decode() for name in ("data-key", "signing-key")}
    made["key-pepper"] = secrets.token_hex(32)
    return made


def call(method: str, path: str, body: object | None = None) -> int:
    """Ask the API server; the status code is the answer."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"https://[{host}]:{port}{path}" if ":" in host else f"https://{host}:{port}{path}"
    request = urllib.request.Request(
        address,
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text(encoding='utf-8')}",
            "Content-Type": "application/json",
        },
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def main() -> int:
    name, namespace = os.environ["SECRET_NAME"], os.environ["NAMESPACE"]
    collection = f"/api/v1/namespaces/{namespace}/secrets"
    if call("GET", f"{collection}/{name}") == 200:
        print(f"secret {name} exists and is left as it is")
        return 0
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "kairos"}},
        "type": "Opaque",
        "stringData": values(),
    }
    status = call("POST", collection, secret)
    # 409: another run of this job was faster; its values stand.
    if status in {200, 201, 409}:
        print(f"secret {name} is there")
        return 0
    print(f"the API server answered {status} to the creation of secret {name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
