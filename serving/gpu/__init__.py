"""GPUs of a host: inventory through NVML, plans of who gets which, pinning and its proof."""
