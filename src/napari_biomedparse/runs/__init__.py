"""Runs that outlive their process: a folder with labels on disk and a record.

Imports point from `run` down: `run` > `parts` > `volume_run` > `blocks` > `folder`,
`objects` > `manifest`, `store` > `identity`, `durable`.
"""
