"""What every search and every measurement is made of: Newton, deduplication, frames, statistics, drivers."""
