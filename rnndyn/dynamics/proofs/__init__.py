"""What can be proved in interval arithmetic?"""
