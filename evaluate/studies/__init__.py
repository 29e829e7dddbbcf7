"""Studies: many trainings and measurements that answer one question, with intervals."""
