"""What are all fixed points and cycles of a piecewise-linear map, exactly?"""
