"""The command `sostenuto wait`: waits for a dataset that another job writes."""
