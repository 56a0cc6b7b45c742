"""Files that are made from the charts, or that the charts take over from elsewhere.

    crd/, docs/settings.md ──▶ charts/*/files/          a chart holds all that it needs
    charts/*/values.yaml   ──▶ charts/*/README.md       the table of values
    charts/                ──▶ manifests/               what `kubectl apply` takes, rendered by helm

`python -m charts` writes them; the tests compare them with what is committed.
"""
