"""Words that every room shares: errors, plug-ins, clock, progress, units. Imports nothing heavy."""
