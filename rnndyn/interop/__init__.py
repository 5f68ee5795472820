"""From elsewhere: how does a network that another library trained become a cell, exactly or not at all?"""
