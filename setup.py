"""What setup.cfg cannot say: coat_ryu.pth goes beside the package, in a wheel and in an editable install alike."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "coat_ryu.pth"


class BuildWithPth(build_py):
    """Adds the .pth to the top of what is installed; setuptools itself can only put files into packages."""

    def run(self) -> None:
        super().run()
        self.copy_file(PTH, str(self._pth_target()))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), str(self._pth_target())]

    def _pth_target(self) -> Path:
        # For an editable install the packages stay where they are, and only what lies in install_lib becomes the wheel.
        root = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        return Path(root) / PTH


setup(cmdclass={"build_py": BuildWithPth})
