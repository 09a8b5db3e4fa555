"""The fleet: many fixes for many kernels, each pair of them a cell. Read this first.

    fleet.toml -> Fleet -> Plan (orders, by what decides them) -> results, one of each order -> out/, report

`spec` reads what is wanted, `kernels` finds what its words mean, `plan` makes an `Order` of each cell and looks which
of them are done. `cell` does one order, with the functions that `bespoke patch`, `check` and `try` call: the same
bytes come of it, wherever it runs. `workers` has a Dask cluster, `engine` lets its scheduler hand out the orders;
`store` keeps what came back, and `shipping` makes packages of it.

    fleet = read_fleet(Path("fleet.toml"))
    store = Store(Path("out"))
    with crew(Crew()) as client:
        for row in run_fleet(make_plan(fleet, store), store, client):
            print(row.fix, row.kernel, row.verdict)

Only `workers`, `engine` and `simulate` import Dask (the extra `fleet`).
"""
