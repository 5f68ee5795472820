"""What changes with a parameter?"""
