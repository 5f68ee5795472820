"""Where do orbits end?"""
