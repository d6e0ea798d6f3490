"""A model of the life cycle: everybody who may touch a run, one transaction at a time, in every order."""
