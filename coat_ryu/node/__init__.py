"""What runs on a node: a resident hook that is sent over SSH and answers JSON lines (docs/architecture.md).

Standard library and pyroute2 only, and nothing of ours from outside this package: nothing of ours is
installed on a node.
"""
