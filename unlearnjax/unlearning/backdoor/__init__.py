"""Backdoored models: what exposes the backdoor, and what removes it."""
