"""In which memory do given states end, proved for all times?"""
