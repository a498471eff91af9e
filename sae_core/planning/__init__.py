"""What a run will take, before anything starts: counted work, times what a unit of it takes on a machine."""
