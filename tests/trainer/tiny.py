"""Settings of models that train in seconds, from random weights."""

TINY = {
    "teacher.backbone": "bert-tiny",
    "teacher.weights": "random",
    "teacher.num_prototypes": 16,
    "teacher.d_ff": 16,
    "teacher_training.epochs": 1,
    "student.backbone": "bert-tiny",
    "student.weights": "random",
    "student.num_prototypes": 16,
    "student.d_ff": 16,
    "student_training.max_windows": 300,
    "student_training.batch_size": 32,
    "gate": "persistence",
}
