"""Where `ray up` gets machines: clouds, and addresses of one's own."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from orchestrator.cluster.base import BaseProfile, Line
from orchestrator.space import Config

HEAD, WORKERS = "head", "workers"


class _Cloud(Config):
    """What clouds have in common: a small head on demand, and workers that come and go."""

    head_machine: Line
    worker_machine: Line

    def section(self) -> dict[str, Any]:
        """The provider's section of the cluster's YAML."""
        raise NotImplementedError

    def node(self, machine: str, gpus: int, spot: bool) -> dict[str, Any]:
        """What the cloud is asked for to make a machine."""
        raise NotImplementedError

    def most(self, profile: "MachinesConfig") -> int:
        """Machines that trials may run on."""
        return profile.max_workers

    def first(self, least: int) -> int:
        """Machines that are there from the beginning, of which `least` workers are wanted."""
        return least + 1

    def head_amounts(self, profile: "MachinesConfig") -> str:
        """Options of `ray start` for what trials may have of the head: nothing, for nobody takes it back."""
        return "--num-cpus=0"

    def layout(self, profile: "MachinesConfig", least: int) -> dict[str, Any]:
        """Sections of the cluster's YAML: the provider, and the machines."""
        head = self.node(self.head_machine, 0, spot=False) | profile.head_node
        worker = self.node(self.worker_machine, profile.gpus_per_node, profile.spot) | profile.worker_node
        gpus = {"GPU": profile.gpus_per_node} if profile.gpus_per_node else {}
        return {
            "provider": self.section(),
            "max_workers": profile.max_workers,
            "head_node_type": HEAD,
            "available_node_types": {
                HEAD: {"resources": {"CPU": 0}, "node_config": head, "max_workers": 0},
                WORKERS: {
                    "resources": {"CPU": profile.cpus_per_node, **gpus},
                    "node_config": worker,
                    "min_workers": least,
                    "max_workers": profile.max_workers,
                },
            },
        }


class AwsProvider(_Cloud):
    """Machines of Amazon's EC2."""

    type: Literal["aws"]
    region: Line
    """Such as us-west-2."""
    zones: tuple[Line, ...] = ()
    """Availability zones in the order in which they are tried; none: those of the region."""
    image: Line | None = None
    """Id of the machine image; null: Ray's choice for the region."""
    head_machine: Line = "m5.xlarge"
    """Instance type of the head."""
    worker_machine: Line
    """Instance type of workers, such as g5.2xlarge."""
    disk_gb: int = Field(200, ge=8, le=65_536)
    """Disk of each, in GB."""
    max_price: float | None = Field(None, gt=0)
    """Dollars that a spot worker may cost an hour; null: up to what it costs on demand."""

    def section(self) -> dict[str, Any]:
        zones = {"availability_zone": ",".join(self.zones)} if self.zones else {}
        # Nodes that are done are given back: stopped ones would go on to cost their disks.
        return {"type": self.type, "region": self.region, **zones, "cache_stopped_nodes": False}

    def node(self, machine: str, gpus: int, spot: bool) -> dict[str, Any]:
        disk = {"VolumeSize": self.disk_gb, "VolumeType": "gp3", "DeleteOnTermination": True}
        found: dict[str, Any] = {
            "InstanceType": machine,
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
        }
        if self.image:
            found["ImageId"] = self.image
        if spot:
            price = {"SpotOptions": {"MaxPrice": f"{self.max_price:g}"}} if self.max_price else {}
            found["InstanceMarketOptions"] = {"MarketType": "spot", **price}
        return found


class GcpProvider(_Cloud):
    """Machines of Google's Compute Engine."""

    type: Literal["gcp"]
    project: Line
    """Id of the project."""
    region: Line
    """Such as us-central1."""
    zone: Line
    """Such as us-central1-a."""
    image: Line = (
        "projects/deeplearning-platform-release/global/images/family/common-cu128-ubuntu-2204-nvidia-570"
    )
    """Source image of the boot disks, such as projects/PROJECT/global/images/IMAGE; one for GPUs has to bring
    their driver."""
    head_machine: Line = "n2-standard-4"
    """Machine type of the head."""
    worker_machine: Line
    """Machine type of workers, such as g2-standard-8, which has its GPU with it."""
    accelerator: Line | None = None
    """GPUs to add to a worker, such as nvidia-tesla-t4; null: none, or those that the machine type has."""
    disk_gb: int = Field(200, ge=10, le=65_536)
    """Disk of each, in GB."""

    def section(self) -> dict[str, Any]:
        place = {"region": self.region, "availability_zone": self.zone, "project_id": self.project}
        return {"type": self.type, **place, "cache_stopped_nodes": False}

    def node(self, machine: str, gpus: int, spot: bool) -> dict[str, Any]:
        first = {"diskSizeGb": self.disk_gb, "sourceImage": self.image}
        disk = {"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": first}
        found: dict[str, Any] = {"machineType": machine, "disks": [disk]}
        if gpus and self.accelerator:
            found["guestAccelerators"] = [{"acceleratorType": self.accelerator, "acceleratorCount": gpus}]
        # The API has an object here; Ray's own examples have a list, which is not one.
        scheduling: dict[str, Any] = {"onHostMaintenance": "TERMINATE"} if gpus else {}
        if spot:
            scheduling |= {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
            scheduling |= {"onHostMaintenance": "TERMINATE", "automaticRestart": False}
        return found | ({"scheduling": scheduling} if scheduling else {})


class LocalProvider(Config):
    """Machines of one's own, by their addresses. Trials run on the head too."""

    type: Literal["local"]
    head_ip: Line
    """Address of the machine that the sweep itself runs on."""
    worker_ips: tuple[Line, ...] = ()
    """Addresses of the others."""

    def most(self, profile: "MachinesConfig") -> int:
        """Machines that trials may run on."""
        return len(self.worker_ips) + 1

    def first(self, least: int) -> int:
        """Machines that are there from the beginning, of which `least` workers are wanted."""
        return len(self.worker_ips) + 1

    def head_amounts(self, profile: "MachinesConfig") -> str:
        """Options of `ray start` for what trials may have of the head."""
        return f"--num-cpus={profile.cpus_per_node} --num-gpus={profile.gpus_per_node}"

    def layout(self, profile: "MachinesConfig", least: int) -> dict[str, Any]:
        """Sections of the cluster's YAML: the provider, and the machines."""
        ips = list(self.worker_ips)
        place = {"type": self.type, "head_ip": self.head_ip, "worker_ips": ips}
        return {"provider": place, "min_workers": len(ips), "max_workers": len(ips)}


Provider = Annotated[AwsProvider | GcpProvider | LocalProvider, Field(discriminator="type")]


class MachinesConfig(BaseProfile):
    """Which machines a cluster is of: an on-demand head, and workers from the spot market."""

    provider: Provider
    cpus_per_node: int = Field(ge=1)
    """Cores of a worker machine."""
    gpus_per_node: int = Field(0, ge=0, le=64)
    """GPUs of a worker machine."""
    min_workers: int = Field(0, ge=0, le=4096)
    """Workers that are kept while nothing runs on them. There are always as many as one trial takes."""
    max_workers: int = Field(1, ge=1, le=4096)
    """Workers that there may be; they come as trials want them. Of one's own machines, all are used."""
    spot: bool = True
    """Whether workers come from the spot market: cheaper, and taken back at any time; trials then go on
    elsewhere from their newest checkpoint. The head never does."""
    head_node: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the cloud's for the head, such as `IamInstanceProfile`."""
    worker_node: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the cloud's for workers."""

    @model_validator(mode="after")
    def _least_within_most(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than max_workers {self.max_workers}")
        if isinstance(self.provider, LocalProvider) and (self.head_node or self.worker_node):
            raise ValueError("head_node and worker_node are a cloud's; machines of one's own have none")
        return self
