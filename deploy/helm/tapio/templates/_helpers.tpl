{{- define "tapio.selector" -}}
app.kubernetes.io/name: tapio
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What the agent reads; the pods are made anew when it changes. */ -}}
{{- define "tapio.config" -}}
{{ toYaml .Values.config }}
{{ end }}

{{- define "tapio.asksKubernetes" -}}
{{ if ne (.Values.config.kubernetes | default "auto") "off" }}yes{{ end }}
{{- end }}

{{- /* The port that is listened on; empty where none is. */ -}}
{{- define "tapio.port" -}}
{{- with .Values.config.listen }}
{{- if and (ne . "off") (not (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):" .)) }}
{{- fail (printf "config.listen: %s cannot be reached from outside the pod; use 0.0.0.0:9090, [::]:9090, or \"off\" for no probes and metrics" .) }}
{{- end }}
{{- regexFind "[0-9]+$" . }}
{{- end }}
{{- end }}

{{- /* What the agent and the test have in common: the latter is to see what the former does. */ -}}
{{- define "tapio.spec" -}}
serviceAccountName: {{ .Release.Name }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
# cgroup.procs and /proc show processes of the own pid namespace only: docs/decisions/0011-in-a-pod.md.
hostPID: true
# Variables of services that are called tapio-something look like settings.
enableServiceLinks: false
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: config
    configMap: {name: {{ .Release.Name }}}
  - name: cgroup
    hostPath: {path: /sys/fs/cgroup, type: Directory}
  - name: state
    hostPath: {path: {{ .Values.config.state_dir | quote }}, type: DirectoryOrCreate}
  {{- with .Values.podVolumes }}
  - name: pods
    hostPath: {path: {{ . | quote }}, type: Directory}
  {{- end }}
  {{- with .Values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "tapio.container" -}}
name: tapio
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  # Not a flag: `kubectl exec ... tapio doctor` reads it, too.
  - name: TAPIO_CONFIG
    value: /etc/tapio/tapio.yaml
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsUser: 0
  capabilities:
    drop: [ALL]
    add: {{ concat (list "BPF" "PERFMON") .Values.capabilities | toJson }}
  {{- with .Values.seccompProfile }}
  seccompProfile: {type: {{ . }}}
  {{- end }}
  {{- with .Values.appArmorProfile }}
  appArmorProfile: {type: {{ . }}}
  {{- end }}
volumeMounts:
  - {name: config, mountPath: /etc/tapio, readOnly: true}
  - {name: cgroup, mountPath: {{ .Values.config.cgroup_root | quote }}, readOnly: true}
  - {name: state, mountPath: {{ .Values.config.state_dir | quote }}}
  {{- with .Values.podVolumes }}
  - {name: pods, mountPath: {{ printf "/host%s" . | quote }}, readOnly: true, mountPropagation: HostToContainer}
  {{- end }}
  {{- with .Values.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
