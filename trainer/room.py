"""What work takes of a machine, and what a cluster has of it."""

from dataclasses import dataclass

from forecasting.errors import InvalidSetting

GPU_SHARE = 0.25  # of a GPU, for a student: four train on one


def student_gpus(gpus: int) -> float:
    """What a student takes where a cluster has so many GPUs, unless it was asked for otherwise."""
    return GPU_SHARE * min(1, gpus)


@dataclass(frozen=True)
class Share:
    """What one job or trial takes of a machine. `cpus` is also its number of threads; memory in bytes."""

    cpus: int = 1
    gpus: float = 0.0
    memory: int = 0

    def __str__(self) -> str:
        memory = f", {self.memory / 1e9:.1f} GB" if self.memory else ""
        return f"{self.cpus} CPUs, {self.gpus:g} GPUs{memory}"


@dataclass(frozen=True)
class Room:
    """What a cluster has: one Share for each machine."""

    machines: tuple[Share, ...]

    @property
    def cpus(self) -> int:
        return sum(machine.cpus for machine in self.machines)

    @property
    def gpus(self) -> int:
        return int(sum(machine.gpus for machine in self.machines))

    def cpus_for(self, workers: int) -> int:
        """The most CPUs that each of so many workers can have; 1 where not even that fits."""
        most = max(machine.cpus for machine in self.machines)
        return next((c for c in range(most, 1, -1) if sum(m.cpus // c for m in self.machines) >= workers), 1)

    def require(self, share: Share, count: int = 1, what: str = "a trial") -> None:
        """Raises InvalidSetting where not even `count` of these fit at once: they would wait for ever."""
        places = sum(_times(share, machine) for machine in self.machines)
        if places < count:
            machines = "; ".join(sorted({str(machine) for machine in self.machines}))
            asked = f"{share}" if count == 1 else f"{count} times {share}"
            raise InvalidSetting(
                f"{what} asks for {asked}; the cluster has {len(self.machines)} machines with {machines}: "
                "ask for less, or add machines first"
            )


def _times(share: Share, machine: Share) -> int:
    pairs = ((machine.cpus, share.cpus), (machine.gpus, share.gpus), (machine.memory, share.memory))
    return min((int(has / asked + 1e-9) for has, asked in pairs if asked), default=1 << 30)
