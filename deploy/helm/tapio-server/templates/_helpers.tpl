{{- /* Names of objects. Beside the agents, in one release, they are others than the release's. */ -}}
{{- define "server.name" -}}
{{ .Values.nameOverride | default .Release.Name }}
{{- end }}

{{- define "server.selector" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "server.portti" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/component: portti
{{- end }}

{{- define "server.ahti" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/component: ahti
{{- end }}

{{- /* What the server reads; the pod is made anew when it changes. */ -}}
{{- define "server.config" -}}
{{ toYaml .Values.config }}
{{ end }}

{{- /* A port that is reached from outside of the pod. */ -}}
{{- define "server.port" -}}
{{- if not (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):" .address) }}
{{- fail (printf "%s: %s cannot be reached from outside the pod; use 0.0.0.0:PORT or [::]:PORT" .key .address) }}
{{- end }}
{{- regexFind "[0-9]+$" .address }}
{{- end }}
