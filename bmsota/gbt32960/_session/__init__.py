"""The two ends of a conversation (annex B; chapter 5 for the waits): `terminal`, `platform`, and what both share in `base`."""
