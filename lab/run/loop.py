"""The round loop of every run, whatever the method and wherever its clients train."""

import fpl
from lab.run import checkpoint
from lab.run import folder as run_folder


def rounds(
    clients, tests, cfg, folder, record, engine=map, server_round=fpl.server_round, state=None
):
    """fpl.run, with each round on disk before it is yielded: (state, log).

    clients: of each its domain is asked here, the rest is up to server_round; record: what
    config.json says, None for a run that cannot be resumed; state: from `checkpoint.resume`.
    """
    domains = [client.domain for client in clients]
    for after, log in fpl.run(clients, tests, cfg, state, engine, server_round):
        run_folder.write_round(folder, after, log, domains, cfg.partition)
        if record is not None:
            checkpoint.save(folder, after, record)
        yield after, log
