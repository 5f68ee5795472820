"""Is a map proved to be chaotic, or to forget its initial state?"""
