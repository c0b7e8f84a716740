"""What breaks services on purpose: a proxy that injects faults, small disks, names that do not resolve."""
