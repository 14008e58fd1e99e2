"""Recorded traffic as a fleet: what real vehicles sent, with times moved, looped, and for more vehicles than were recorded."""
