"""Run folders: labels on disk and a record, written block by block and resumable."""
