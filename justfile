# Names for the commands of CONTRIBUTING.md. `just` lists them.

[private]
default:
    @just --list

# Format all code.
fmt:
    cargo fmt

# Format, lints and docs, as the CI asks for them.
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps

# All tests, or those whose names contain a text.
test *names:
    scripts/test {{ names }}

# A fleet under load through random faults, for so many minutes.
soak minutes='10':
    scripts/soak {{ minutes }}

# Real clients, one row each, or those whose names contain a text.
clients *parts:
    scripts/clients {{ parts }}

# Simulated fleets: so many, or the one of a seed.
simulate *which:
    scripts/simulate {{ which }}

# Licences, sources, versions twice, known vulnerabilities, and the list of what it is made of.
audit:
    scripts/audit

# Fuzzes one target, for so many seconds.
fuzz *which:
    scripts/fuzz {{ which }}

# What the limiter costs, in memory and in Redis.
bench *flags:
    cargo run --locked --release -- bench limiter {{ flags }}

# A proxy with a limit of 25.
run *flags:
    cargo run --locked --release -- --max-connections 25 {{ flags }}

# Two instances, a Redis and a slow origin.
demo:
    docker compose up --build

# Done means this.
qa: audit
    .ci/run
