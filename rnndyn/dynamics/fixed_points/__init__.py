"""Where does a map stand (nearly) still?"""
