from wukong_subprocess import SubprocessFaaS

from wukong.testing.faas import FaaSTests


class TestSubprocessFaaS(FaaSTests):
    def make_faas(self, function):
        return SubprocessFaaS(function)
