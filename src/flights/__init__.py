"""Will a flight from New York land fifteen minutes late or more?"""
