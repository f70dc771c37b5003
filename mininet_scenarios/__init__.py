"""The lab: Mininet hosts that are whole edge hosts, with Open vSwitch, Podman, CRIU and sshd of their own."""
